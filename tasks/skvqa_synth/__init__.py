"""The embedded benchmark as harness tasks: skvqa_synth, skvqa_synth_quick and skvqa_synth_sealed."""
