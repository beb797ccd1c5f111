# The kernels on the device: the module _cuda by nvcc, and for tests _cuda_emulated by the C++ compiler.
set(cuda_kernels
  csrc/cuda/argmax_offset.cu
  csrc/cuda/crops.cu
  csrc/cuda/find_peaks.cu
  csrc/cuda/flip_average.cu
  csrc/cuda/group.cu
  csrc/cuda/mirror.cu
  csrc/cuda/settle_persons.cu
  csrc/cuda/soft_argmax.cu)
set(cuda_bindings csrc/bindings/cuda.cpp csrc/bindings/cuda_pose_maps.cpp)

if(EDGEPOSE_CUDA)
  enable_language(CUDA)
  # Real code for every processor that the toolkit knows among these, and PTX of the last for later ones.
  set(wanted 72 75 80 86 87 89 90 100 110 120)
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch OUTPUT_VARIABLE known)
  set(architectures "")
  foreach(architecture ${wanted})
    if(known MATCHES "compute_${architecture}[\r\n]")
      list(APPEND architectures ${architecture}-real)
      set(last ${architecture})
    endif()
  endforeach()
  list(APPEND architectures ${last}-virtual)
  if(NOT EDGEPOSE_CUDA_ARCHITECTURES)
    set(EDGEPOSE_CUDA_ARCHITECTURES ${architectures})
  endif()
  message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${EDGEPOSE_CUDA_ARCHITECTURES}")
  pybind11_add_module(_cuda ${cuda_bindings} ${cuda_kernels})
  set_target_properties(_cuda PROPERTIES
    CUDA_ARCHITECTURES "${EDGEPOSE_CUDA_ARCHITECTURES}" CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
    CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(_cuda PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_compile_definitions(_cuda PRIVATE EDGEPOSE_ISA=cuda EDGEPOSE_CUDA_MODULE=_cuda)
  # As on the CPU: no contraction to fused multiply-add.
  target_compile_options(_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:--fmad=false;-Xcompiler=-Wall,-Wextra>")
  if(EDGEPOSE_DEV)
    target_compile_options(_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Werror>")
  endif()
endif()

if(EDGEPOSE_EMULATION)
  set_source_files_properties(${cuda_kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  pybind11_add_module(_cuda_emulated NO_EXTRAS
    ${cuda_bindings} ${cuda_kernels} tests/emulation/emulation.cpp)
  target_include_directories(_cuda_emulated PRIVATE tests/emulation)
  target_compile_definitions(_cuda_emulated PRIVATE
    EDGEPOSE_ISA=cuda EDGEPOSE_CUDA_MODULE=_cuda_emulated EDGEPOSE_EMULATION)
  target_compile_options(_cuda_emulated PRIVATE -O1 -g -UNDEBUG)
  if(EDGEPOSE_SANITIZE)
    target_compile_options(_cuda_emulated PRIVATE
      -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(_cuda_emulated PRIVATE -fsanitize=address,undefined)
  endif()
endif()
