#include "textflag.h"

// func set(limit *struct{ Soft, Hard uint64 })
TEXT ·set(SB),NOSPLIT,$0-8
	MOVQ	$0, DI
	MOVQ	$7, SI // RLIMIT_NOFILE
	MOVQ	limit+0(FP), DX
	MOVQ	$0, R10
	MOVL	$302, AX // prlimit64
	SYSCALL
	RET
