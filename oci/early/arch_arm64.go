package early

import "syscall"

const sysFstatat = syscall.SYS_FSTATAT // fstatat(2)
