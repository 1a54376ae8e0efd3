"""Tasks for lmms-eval; one folder per benchmark."""
