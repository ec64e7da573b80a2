#pragma once

#include "nixl_connect/completion.h"
#include "nixl_connect/connection.h"
#include "nixl_connect/connector.h"
#include "nixl_connect/descriptor.h"
#include "nixl_connect/device.h"
#include "nixl_connect/error.h"
#include "nixl_connect/metadata.h"
