#include "textflag.h"

// onStop is a signal handler that ends the process: exit_group(128 + SIGTERM).
TEXT ·onStop(SB),NOSPLIT|NOFRAME,$0
	MOVD	$143, R0
	MOVD	$94, R8
	SVC
	BRK

// func stopHandler() uintptr
TEXT ·stopHandler(SB),NOSPLIT,$0-8
	MOVD	$·onStop(SB), R0
	MOVD	R0, ret+0(FP)
	RET
