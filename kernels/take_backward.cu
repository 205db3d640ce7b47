// The gradient of take: dx[..., j, ...] = sum over m with index[m] == j of dy[..., m, ...], in
// ascending m, so that the sum has one order (scattering would need atomics, whose order is chance).
// Each thread looks through the whole index: the cost is count(dx) * count(index).
//
// Of the three operands dy does not step along the taken axis, and the third one's offset is the
// position j on that axis.
#include "layout.cuh"
#include "real.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    take_backward(const real* __restrict__ dy, const long long* __restrict__ index,
                  real* __restrict__ dx, index_t chosen, index_t length, index_t axis_step,
                  Layout layout) {
  for (index_t i = first_element(); i < layout.count; i += grid_step()) {
    index_t at[3];
    locate<3>(layout, i, at);
    real sum = 0;
    for (index_t m = 0; m < chosen; m++) {
      const long long j = index[m] < 0 ? index[m] + length : index[m];
      if (j == at[2]) sum += dy[at[1] + m * axis_step];
    }
    dx[at[0]] = sum;
  }
}
