#pragma once
// Element types of safetensors and their conversion to ours. Used by safetensors.cpp only.
#include <cstdint>
#include <string>

#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::io {

/// Bytes per element of F64, F32, BF16, F16; 0 for any other dtype.
std::int64_t safetensors_element_bytes(const std::string& dtype);
/// Their name for one of our dtypes. @throws Error(internal) naming the tensor for integers
std::string safetensors_dtype(DType dtype, const std::string& tensor);
/// Fills `out` from unaligned little-endian elements.
void safetensors_convert(const char* bytes, const std::string& dtype, TensorView out);

}  // namespace nmoe::io
