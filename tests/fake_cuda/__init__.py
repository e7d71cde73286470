"""A pretended CUDA device for machines without one.

Tensors "on cuda:0" keep their numbers on the CPU and report the GPU as their device. Every
operation on them passes `fake_cuda.device`, which refuses what CUDA refuses (tensors on different
devices, dtypes that the attention kernel does not take, a tensor that is too large) and records
what costs time there: waits of the host for the device, and copies. fp32 products are rounded to
TF32 while TF32 is on.

It has no streams, no races and no speed, so it says nothing about time; inference mode is
replaced by `no_grad`.

`environment()` gives the variables under which a new process, and all of its children, have the
device: `preload/sitecustomize.py` puts it in place before torch is imported.
"""
