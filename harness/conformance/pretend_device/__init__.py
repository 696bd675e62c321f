"""A pretend CUDA device: numbers of the CPU in tensors that report ``cuda:0``, on machines without a GPU.

It follows CUDA's rules for devices, autocast, random generators and attention kernels, and reports where the host waits.
It has no kernels, streams or memory of its own: races between streams, rounding of CUDA's libraries and speed need a GPU.
"""
