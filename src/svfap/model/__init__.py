"""The paper's model; imports torch and nothing of ours but the error type."""
