"""The paper's protocols and studies, each one call: cross-validation, and the experiments of its tables and figures."""
