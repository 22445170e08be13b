"""Networks of Hugging Face's ``transformers`` from their folders, and texts for them; needs the extra ``hf``."""
