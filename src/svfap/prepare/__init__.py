"""Official releases of datasets, and users' own data, to manifests of their protocol; one module per dataset."""
