"""The paper's model; imports torch and no other folder of ours."""
