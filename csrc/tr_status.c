#include "tr_status.h"
typedef int tr_status_c_is_not_empty;
