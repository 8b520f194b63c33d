#include "core/model/llama4.h"
