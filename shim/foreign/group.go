package foreign

import "syscall"

// newGroup keeps a terminal's signals to this process off the shim.
var newGroup = &syscall.SysProcAttr{Setpgid: true}
