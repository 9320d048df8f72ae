#include "textflag.h"

// func prlimit(to, was *limits)
TEXT ·prlimit(SB),NOSPLIT,$0-16
	MOVQ	$0, DI
	MOVQ	$7, SI // RLIMIT_NOFILE
	MOVQ	to+0(FP), DX
	MOVQ	was+8(FP), R10
	MOVL	$302, AX // prlimit64
	SYSCALL
	RET
