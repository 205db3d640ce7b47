// Reductions over the threads of a block in shared memory: trees of one fixed shape, so that the
// same launch gives the same bits. The reduced dimension of the block is a power of two; slot t of
// the caller's shared arrays belongs to thread t = threadIdx.y * blockDim.x + threadIdx.x, and
// `combine(to, from)` merges slot `from` into slot `to`.

// Over threadIdx.y: slot x (row 0) ends up with its column's result.
template <class Combine>
__device__ __forceinline__ void reduce_rows(Combine combine) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();
  for (int step = blockDim.y / 2; step > 0; step /= 2) {
    if (threadIdx.y < step) combine(thread, thread + step * blockDim.x);
    __syncthreads();
  }
}

// Over threadIdx.x: slot y * blockDim.x (column 0) ends up with its row's result. The barrier at
// the end lets every thread read it; before the slots are written again there must be another.
template <class Combine>
__device__ __forceinline__ void reduce_columns(Combine combine) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();
  for (int step = blockDim.x / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) combine(thread, thread + step);
    __syncthreads();
  }
}
