// Max pooling over windows of 2 × 2: the largest number of each and its place in it, what is spread back to that
// place, and what is taken from there. As PyTorch: of equal numbers the first counts, and a NaN is larger than any.
//
// Letters: P planes of H × W, pooled to h × w, w at least 2. Places in a window are 0 1 over 2 3.
#include <cstdint>
#include <cstring>
#include <type_traits>

// N windows side by side: what is above and below, 2·N numbers each.
template <typename T, int N> struct Windows {
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Place;
  typedef T V __attribute__((vector_size(N * sizeof(T))));
  typedef Place I __attribute__((vector_size(N * sizeof(T))));
  typedef uint8_t Bytes __attribute__((vector_size(N)));

  static inline V load(const T *from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }

  static inline void store(T *at, V v) { std::memcpy(at, &v, sizeof v); }

  static inline I load(const uint8_t *from) {
    Bytes bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, I);
  }

  // Every other number of both, from the first or the second on.
  static inline V every_other(V a, V b, int from) {
    I at;
    for (int i = 0; i < N; i++) at[i] = 2 * i + from;
    return __builtin_shuffle(a, b, at);
  }

  // A number of each by turns, of their first or of their second halves.
  static inline V by_turns(V a, V b, int half) {
    I at;
    for (int i = 0; i < N; i++) at[i] = i / 2 + (i % 2 ? N : 0) + half * N / 2;
    return __builtin_shuffle(a, b, at);
  }

  static inline void pool(const T *above, const T *below, T *y, uint8_t *places) {
    const V a0 = load(above), a1 = load(above + N), b0 = load(below), b1 = load(below + N);
    const V a = every_other(a0, a1, 0), b = every_other(a0, a1, 1);
    const V c = every_other(b0, b1, 0), d = every_other(b0, b1, 1);
    const I second = (b > a) | (b != b), fourth = (d > c) | (d != d);  // −1 where it holds
    const V top = second ? b : a, bottom = fourth ? d : c;
    const I under = (bottom > top) | (bottom != bottom);
    const V most = under ? bottom : top;
    const Bytes at = __builtin_convertvector(under ? 2 - fourth : -second, Bytes);
    store(y, most), std::memcpy(places, &at, sizeof at);
  }

  static inline void spread(T *above, T *below, const T *y, const uint8_t *places) {
    const V g = load(y), none{};
    const I at = load(places);
    const V a = at == 0 ? g : none, b = at == 1 ? g : none, c = at == 2 ? g : none, d = at == 3 ? g : none;
    store(above, by_turns(a, b, 0)), store(above + N, by_turns(a, b, 1));
    store(below, by_turns(c, d, 0)), store(below + N, by_turns(c, d, 1));
  }

  static inline void take(const T *above, const T *below, T *y, const uint8_t *places) {
    const V a0 = load(above), a1 = load(above + N), b0 = load(below), b1 = load(below + N);
    const I at = load(places), odd = (at & 1) != 0;
    const V top = odd ? every_other(a0, a1, 1) : every_other(a0, a1, 0);
    const V bottom = odd ? every_other(b0, b1, 1) : every_other(b0, b1, 0);
    const V found = (at & 2) != 0 ? bottom : top;
    store(y, found);
  }
};

template <typename T> struct Planes {
  T *x, *y;
  uint8_t *places;
  int64_t P, H, W;

  // f of N windows after N windows of every row, the last N of which may overlap those before.
  template <int N, typename F> void by(F f) const {
    const int64_t h = H / 2, w = W / 2;
    for (int64_t p = 0; p < P; p++)
      for (int64_t i = 0; i < h; i++) {
        T *above = x + (p * H + 2 * i) * W, *ends = y + (p * h + i) * w;
        uint8_t *at = places + (p * h + i) * w;
        for (int64_t j = 0; j < w; j += N) {
          const int64_t k = j + N <= w ? j : w - N;
          f(std::integral_constant<int, N>(), above + 2 * k, above + W + 2 * k, ends + k, at + k);
        }
      }
  }
  template <typename F> void each(F f) const {
    constexpr int N = 32 / sizeof(T);
    W / 2 >= N ? by<N>(f) : W / 2 >= N / 2 ? by<N / 2>(f) : by<2>(f);
  }
};

#define FOR(WHAT, T, NAME)                                                                                       \
  extern "C" void WHAT##_##NAME(T *x, T *y, uint8_t *places, int64_t P, int64_t H, int64_t W) {                  \
    Planes<T>{x, y, places, P, H, W}.each([](auto n, T *above, T *below, T *y, uint8_t *places) {                \
      Windows<T, decltype(n)::value>::WHAT(above, below, y, places);                                             \
    });                                                                                                          \
  }
FOR(pool, float, float32)
FOR(pool, double, float64)
FOR(spread, float, float32)
FOR(spread, double, float64)
FOR(take, float, float32)
FOR(take, double, float64)
