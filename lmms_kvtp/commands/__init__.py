"""The subcommands of `lmms-kvtp`, one file each: `add_arguments(parser)` and `main(arguments)`."""
