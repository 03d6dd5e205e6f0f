"""mlxtune: one recipe and some labelled text in, a fine-tuned Qwen adapter with its evidence out."""

__version__ = "0.1.0"
