// Reductions over the threads of a block in shared memory: trees of one fixed shape, so that the
// same launch gives the same bits. The reduced dimension of the block is a power of two; slot t of
// the caller's shared arrays belongs to thread t = threadIdx.y * blockDim.x + threadIdx.x, and
// `combine(to, from)` merges slot `from` into slot `to`.

__device__ __forceinline__ int thread_of_block() {
  return threadIdx.y * blockDim.x + threadIdx.x;
}

// Over threadIdx.y: slot x (row 0) ends up with its column's result.
template <class Combine>
__device__ __forceinline__ void reduce_rows(Combine combine) {
  const int thread = thread_of_block();
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
  const int thread = thread_of_block();
  __syncthreads();
  for (int step = blockDim.x / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) combine(thread, thread + step);
    __syncthreads();
  }
}

// Over `lanes` neighbouring threads of a warp, a power of two; every thread gets the result, and
// whole warps must call. The butterfly pairs the same threads whatever they wait for.
template <class Value>
__device__ __forceinline__ Value lanes_sum(Value value, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}

template <class Value>
__device__ __forceinline__ Value lanes_maximum(Value value, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2)
    value = max(value, __shfl_xor_sync(~0u, value, step));
  return value;
}

// Over the block, which is whole warps; every thread gets the result. `shared` holds one value a
// warp and serves one call only: nothing keeps a second one from overtaking the readers.
template <class Value>
__device__ __forceinline__ Value block_sum(Value value, Value* shared) {
  value = lanes_sum(value, 32);
  const int thread = thread_of_block(), warps = blockDim.x * blockDim.y / 32;
  if (thread % 32 == 0) shared[thread / 32] = value;
  __syncthreads();
  Value sum = shared[0];
  for (int warp = 1; warp < warps; warp++) sum += shared[warp];
  return sum;
}
