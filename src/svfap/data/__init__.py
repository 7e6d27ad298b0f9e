"""Files to tensors: manifests, video decoding, clip sampling, augmentation, synthetic faces. Knows nothing of models."""
