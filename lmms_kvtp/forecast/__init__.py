"""What a method costs on a model, from shapes alone: no weights, no video."""
