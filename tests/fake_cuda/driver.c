// The part of CUDA's driver API that tells what cards there are. $FAKE_CUDA_DRIVER is the CUDA version that it serves (13000).

#include <stdlib.h>
#include <string.h>

static int devices(void) { const char* text = getenv("FAKE_CUDA_DEVICES"); return text ? atoi(text) : 1; }

int cuInit(unsigned flags) { return flags != 0; }
int cuDriverGetVersion(int* version) {
  const char* text = getenv("FAKE_CUDA_DRIVER");
  *version = text ? atoi(text) : 13000;
  return 0;
}
int cuDeviceGet(int* device, int index) { *device = index; return index >= devices(); }
int cuDeviceGetName(char* name, int len, int device) {
  if (device >= devices()) return 1;
  strncpy(name, "Simulated CUDA device", (size_t)len);
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)16 << 30; return device >= devices(); }
