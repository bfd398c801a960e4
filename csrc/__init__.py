"""No code: this file lets Python, and the build tools that ask it, find the C core's folder as `fastopt.csrc`."""
