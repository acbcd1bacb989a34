"""The subcommands of ``cac-align``, one module each: ``NAME``, ``HELP``, ``add_arguments(parser)``, ``run(args) -> exit
code``."""
