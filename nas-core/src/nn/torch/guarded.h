#pragma once
// What the C functions of this folder return: null, or a message that the caller frees.

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

template <typename F>
inline char* guarded(F f) {
  try {
    f();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  }
}
