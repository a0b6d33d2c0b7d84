// Small functions that the CPU and device code share are marked so: nvcc compiles them for both.
#pragma once

#ifdef __CUDACC__
#define GRINQH_BOTH __host__ __device__
#else
#define GRINQH_BOTH
#endif
