"""The embedded benchmark as harness tasks: skvqa_synth and skvqa_synth_quick."""
