"""From the harness's sample files to rows that can be compared."""
