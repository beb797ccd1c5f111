// Vectors as wide as the instruction set's registers, on the vector extension of GCC and Clang.
// The operators + - * & | << >> and comparisons work lane by lane on them; what the extension lacks
// stands here.
#pragma once

#include <cstdint>
#include <cstring>

#include "elementwise.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace edgepose::EDGEPOSE_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t UInts __attribute__((vector_size(4 * kLanes)));
typedef std::int16_t Shorts __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t UShorts __attribute__((vector_size(4 * kLanes)));
typedef std::uint64_t Quads __attribute__((vector_size(4 * kLanes)));

inline Floats broadcast(float value) { return Floats{} + value; }

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Ints load(const std::int32_t* from) {
  Ints v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Floats load(const Half* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__aarch64__)
  return (Floats)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits)));
#else
  Floats v;
  for (int i = 0; i < kLanes; ++i) v[i] = widen(from[i]);
  return v;
#endif
}

inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

inline Quads load(const std::uint64_t* from) {
  Quads v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(std::uint64_t* to, Quads v) { std::memcpy(to, &v, sizeof v); }

inline Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }

// The larger of each pair; where v is NaN, the other.
inline Floats larger(Floats v, Floats other) {
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps((__m512)v, (__m512)other);
#elif defined(__AVX2__)
  return (Floats)_mm256_max_ps((__m256)v, (__m256)other);
#elif defined(__SSE2__)
  return (Floats)_mm_max_ps((__m128)v, (__m128)other);
#else
  return v > other ? v : other;
#endif
}

// The smaller of each pair; where v is NaN, the other.
inline Floats smaller(Floats v, Floats other) { return -larger(-v, -other); }

// Whether any lane reaches its limit; NaN does not.
inline bool any_reaches(Floats v, Floats limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)v, (__m512)limit, _CMP_GE_OQ) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)limit, _CMP_GE_OQ)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps(_mm_cmpge_ps((__m128)v, (__m128)limit)) != 0;
#elif defined(__aarch64__)
  return vmaxvq_u32(vcgeq_f32((float32x4_t)v, (float32x4_t)limit)) != 0;
#else
  const Ints reached = v >= limit;
  int any = 0;
  for (int i = 0; i < kLanes; ++i) any |= reached[i];
  return any != 0;
#endif
}

// v where it reaches the limit, elsewhere (and for NaN) 0.
inline Floats keep_reaching(Floats key, Floats limit, Floats v) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)key, (__m512)limit, _CMP_GE_OQ), (__m512)v);
#else
  return (Floats)((key >= limit) & (Ints)v);
#endif
}

inline Floats square_root(Floats v) {
#if defined(__AVX512F__)
  return (Floats)_mm512_sqrt_ps((__m512)v);
#elif defined(__AVX2__)
  return (Floats)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__)
  return (Floats)_mm_sqrt_ps((__m128)v);
#elif defined(__aarch64__)
  return (Floats)vsqrtq_f32((float32x4_t)v);
#else
  for (int i = 0; i < kLanes; ++i) v[i] = sqrtf(v[i]);
  return v;
#endif
}

// The nearest whole number, to even, for v >= 0.
inline Floats rounded(Floats v) {
  const Floats magic = broadcast(0x1p23f);  // from here on all numbers are whole
  const Floats whole = (v + magic) - magic;
  return v < magic ? whole : v;
}

inline float sum(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

inline Floats reversed(Floats v) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return (Floats)_mm512_permutexvar_ps(order, (__m512)v);
#elif defined(__AVX2__)
  return (Floats)_mm256_permutevar8x32_ps((__m256)v, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
#else
  return Floats{v[3], v[2], v[1], v[0]};
#endif
}

// e^x for -87 < x <= 0, within 2 units in the last place, and exactly 1 for 0.
// Lanes outside that range hold rubbish.
inline Floats exp_negative(Floats x) {
  const Floats magic = broadcast(0x1.8p23f);  // adding it rounds to whole numbers
  const Floats shifted = x * 0x1.715476p+0f + magic;
  const Floats whole = shifted - magic;
  const Floats r = (x - whole * 0x1.62e400p-1f) - whole * 0x1.7f7d1cp-20f;  // x - whole ln 2
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  return (Floats)((UInts)p + ((UInts)shifted << 23));
}

// (a * b + 2^14) >> 15, where not both are -2^15.
inline Shorts multiply_rounded(Shorts a, Shorts b) {
#if defined(__AVX512BW__)
  return (Shorts)_mm512_mulhrs_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (Shorts)_mm256_mulhrs_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  const auto high = (UShorts)_mm_mulhi_epi16((__m128i)a, (__m128i)b);
  const UShorts low = (UShorts)a * (UShorts)b;
  return (Shorts)((high << 1) + (((low >> 14) + 1) >> 1));
#elif defined(__aarch64__)
  return (Shorts)vqrdmulhq_s16((int16x8_t)a, (int16x8_t)b);
#else
  for (int i = 0; i < 2 * kLanes; ++i) a[i] = static_cast<std::int16_t>((a[i] * b[i] + (1 << 14)) >> 15);
  return a;
#endif
}

// The four bytes at base + offset of each lane.
inline UInts gather_bytes(const std::uint8_t* base, Ints offset) {
#if defined(__AVX512F__)
  return (UInts)_mm512_i32gather_epi32((__m512i)offset, base, 1);
#elif defined(__AVX2__)
  return (UInts)_mm256_i32gather_epi32(reinterpret_cast<const int*>(base), (__m256i)offset, 1);
#else
  UInts v;
  for (int i = 0; i < kLanes; ++i) {
    std::uint32_t lane;
    std::memcpy(&lane, base + offset[i], sizeof lane);
    v[i] = lane;
  }
  return v;
#endif
}

// The eight bytes at base + each offset.
inline Quads load_eights(const std::uint8_t* base, const std::int32_t* offset) {
  Quads v;
  for (int i = 0; i < kLanes / 2; ++i) {
    std::uint64_t lane;
    std::memcpy(&lane, base + offset[i], sizeof lane);
    v[i] = lane;
  }
  return v;
}

// Bytes `first` to `first` + 3 of each lane, widened.
template <int first>
inline UShorts widened_bytes(Quads v) {
#if defined(__AVX2__)
  constexpr char a = first, b = first + 1, c = first + 2, d = first + 3;
  const __m128i order = _mm_setr_epi8(a, -1, b, -1, c, -1, d, -1, a + 8, -1, b + 8, -1, c + 8, -1, d + 8, -1);
#if defined(__AVX512BW__)
  return (UShorts)_mm512_shuffle_epi8((__m512i)v, _mm512_broadcast_i32x4(order));
#else
  return (UShorts)_mm256_shuffle_epi8((__m256i)v, _mm256_broadcastsi128_si256(order));
#endif
#else
  v = (v >> (8 * first)) & 0xffffffffu;
  const Quads spread = (v | v << 16) & 0x0000ffff0000ffffu;
  return (UShorts)((spread | spread << 8) & 0x00ff00ff00ff00ffu);
#endif
}

// The first three of each four, one after the other or in reverse order, as bytes; none is above 255 and
// nothing is written beyond them.
inline void store_pixels(std::uint8_t* to, UShorts low, UShorts high, bool reverse) {
#if defined(__AVX2__)
  const __m128i plain = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const __m128i turned = _mm_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
  const __m128i order = reverse ? turned : plain;
  constexpr int kParts = kLanes / 4;
  __m128i parts[2 * kParts];
  std::memcpy(parts, &low, sizeof low);
  std::memcpy(parts + kParts, &high, sizeof high);
  for (int i = 0; i < kParts; ++i) {
    const __m128i four = _mm_shuffle_epi8(_mm_packus_epi16(parts[2 * i], parts[2 * i + 1]), order);
    if (i < kParts - 1) {  // four bytes too many, which the next ones overwrite
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 12 * i), four);
    } else {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 12 * i), four);
      const int end = _mm_extract_epi32(four, 2);
      std::memcpy(to + 12 * i + 8, &end, sizeof end);
    }
  }
#elif defined(__aarch64__)
  const std::uint8_t plain[16] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 255, 255, 255, 255};
  const std::uint8_t turned[16] = {2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, 255, 255, 255, 255};
  const uint8x16_t pixels = vcombine_u8(vmovn_u16((uint16x8_t)low), vmovn_u16((uint16x8_t)high));
  const uint8x16_t four = vqtbl1q_u8(pixels, vld1q_u8(reverse ? turned : plain));
  std::memcpy(to, &four, 12);
#elif defined(__SSE2__)
  UInts four = (UInts)_mm_packus_epi16((__m128i)low, (__m128i)high);
  if (reverse) four = (four >> 16 & 0xffu) | (four & 0xff00u) | (four & 0xffu) << 16;
  for (int i = 0; i < kLanes; ++i) {
    const std::uint32_t lane = four[i];
    std::memcpy(to + 3 * i, &lane, i < kLanes - 1 ? 4 : 3);  // one byte too many, which the next overwrites
  }
#else
  const int first = reverse ? 2 : 0, last = 2 - first;
  for (int i = 0; i < kLanes; ++i, to += 3) {
    const UShorts from = i < kLanes / 2 ? low : high;
    const int at = 4 * (i % (kLanes / 2));
    to[first] = static_cast<std::uint8_t>(from[at]);
    to[1] = static_cast<std::uint8_t>(from[at + 1]);
    to[last] = static_cast<std::uint8_t>(from[at + 2]);
  }
#endif
}

}  // namespace edgepose::EDGEPOSE_ISA
