// Neighbours in memory that move as one access: 128 bits where the types and the launcher allow.
// Names are chosen so that none of them is a define of a launcher (source, target, element, word).

// N elements. Whoever loads or stores one has proved that it lies on a multiple of its alignment.
template <class Element, int N>
struct alignas(sizeof(Element) * N < 16 ? sizeof(Element) * N : 16) Pack {
  Element v[N];
};

template <int N, class Element>
__device__ __forceinline__ Pack<Element, N> load_pack(const Element* from) {
  return *reinterpret_cast<const Pack<Element, N>*>(from);
}

// 16 bytes to global memory. In PTX, because the compiler takes a vector store apart where another
// path stores single elements to the same array, which quadruples its sectors.
__device__ __forceinline__ void store_16_bytes(void* to, const uint4& words) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}

template <int N, class Element>
__device__ __forceinline__ void store_pack(Element* to, const Pack<Element, N>& pack) {
  if constexpr (sizeof(pack) == 16)
    store_16_bytes(to, *reinterpret_cast<const uint4*>(&pack));
  else
    *reinterpret_cast<Pack<Element, N>*>(to) = pack;
}
