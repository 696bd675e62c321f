"""The requirements of the conformance kit: of training, prediction, short memory and a CUDA device."""
