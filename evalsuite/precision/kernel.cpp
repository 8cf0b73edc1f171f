// Quantise and dequantise BF16 activations in one pass: the hot loop of `fake.py`, bit for bit (`compiled.py` checks).
//
// x is rows of k numbers; every `width` of a row (the last block may be shorter) share a scale, which stands in `table`
// under the block's amax, a BF16 pattern without sign. Rounding is that of `elements.py`: adding and taking away a
// number so large that the sum's last place is the format's. Compile without contraction or fast-math.

#include <algorithm>
#include <cstdint>

struct Format {
  float factor;    // 1.5 * 2^(23 - mantissa bits); integers: 1.5 * 2^23
  float least;     // the same for the smallest normal number; integers: factor
  float max;       // largest number, for the clamp
  int32_t clamps;  // whether scales may let elements exceed it
  int32_t signs;   // whether the format has a negative zero
  int32_t fixed;   // integers: one step everywhere
};

enum Mode { FLOAT, FLOAT_OF_BF16, BF16 };

template <class To, class From> static inline To bits(From x) { return __builtin_bit_cast(To, x); }

static inline uint32_t to_bf16(float v) {  // to nearest, ties to even; NaN stays NaN
  uint32_t b = bits<uint32_t>(v);
  uint32_t rounded = (b + 0x7FFF + ((b >> 16) & 1)) >> 16;
  return (b & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded;
}

template <bool clamps, bool fixed, bool minus_zero, Mode mode>
static inline void block(const uint16_t* x, int64_t n, float scale, const Format& f, void* out) {
  float* wide = static_cast<float*>(out);
  uint16_t* narrow = static_cast<uint16_t*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    float v = bits<float>(uint32_t(x[i]) << 16) / scale;
    if (clamps) {
      v = v > f.max ? f.max : v;  // NaN passes
      v = v < -f.max ? -f.max : v;
    }
    float m = f.factor;
    if (!fixed) {
      m = bits<float>(bits<uint32_t>(v) & 0x7F800000u) * f.factor;
      m = m < f.least ? f.least : m;
    }
    float r = (v + m) - m;
    if (minus_zero) r = bits<float>((bits<uint32_t>(r) & 0x7FFFFFFFu) | (bits<uint32_t>(v) & 0x80000000u));
    r = r * scale;
    if (mode == FLOAT) wide[i] = r;
    if (mode == FLOAT_OF_BF16) wide[i] = bits<float>(to_bf16(r) << 16);
    if (mode == BF16) narrow[i] = uint16_t(to_bf16(r));
  }
}

template <bool clamps, bool fixed, bool minus_zero, Mode mode>
static void all(const uint16_t* x, int64_t rows, int64_t k, int64_t width, const float* table, const Format& f,
                void* out, int16_t* amax, int threads) {
  const int64_t blocks = (k + width - 1) / width, size = mode == BF16 ? 2 : 4;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t start = row * k + b * width, n = std::min(width, k - b * width);
      uint16_t top = 0;
#pragma omp simd reduction(max : top)
      for (int64_t i = 0; i < n; ++i) top = std::max(top, uint16_t(x[start + i] & 0x7FFF));
      amax[row * blocks + b] = int16_t(top);
      block<clamps, fixed, minus_zero, mode>(x + start, n, table[top], f, static_cast<char*>(out) + start * size);
    }
  }
}

template <bool clamps, bool fixed, bool minus_zero, class... Rest> static void by_mode(int mode, Rest... rest) {
  if (mode == FLOAT) all<clamps, fixed, minus_zero, FLOAT>(rest...);
  if (mode == FLOAT_OF_BF16) all<clamps, fixed, minus_zero, FLOAT_OF_BF16>(rest...);
  if (mode == BF16) all<clamps, fixed, minus_zero, BF16>(rest...);
}

extern "C" void evalsuite_qdq(const uint16_t* x, int64_t rows, int64_t k, int64_t width, const float* table,
                              const Format* f, void* out, int16_t* amax, int mode, int threads) {
  if (f->fixed) {
    f->clamps ? by_mode<true, true, false>(mode, x, rows, k, width, table, *f, out, amax, threads)
              : by_mode<false, true, false>(mode, x, rows, k, width, table, *f, out, amax, threads);
  } else if (f->signs) {
    f->clamps ? by_mode<true, false, true>(mode, x, rows, k, width, table, *f, out, amax, threads)
              : by_mode<false, false, true>(mode, x, rows, k, width, table, *f, out, amax, threads);
  } else {
    f->clamps ? by_mode<true, false, false>(mode, x, rows, k, width, table, *f, out, amax, threads)
              : by_mode<false, false, false>(mode, x, rows, k, width, table, *f, out, amax, threads);
  }
}
