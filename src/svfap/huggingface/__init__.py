"""The models in Hugging Face's transformers: its configs, models, video processor and Auto classes."""
