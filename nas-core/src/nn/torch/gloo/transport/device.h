#pragma once

namespace gloo::transport {
class Device;

// Destroyed by inline code of c10d's classes.
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = default;
};
}  // namespace gloo::transport
