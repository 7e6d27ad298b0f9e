"""The paper's experiments: each table or figure as a study that trains, scores, and compares with the paper."""
