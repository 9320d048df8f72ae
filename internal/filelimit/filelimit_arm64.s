#include "textflag.h"

// func set(limit *struct{ Soft, Hard uint64 })
TEXT ·set(SB),NOSPLIT,$0-8
	MOVD	$0, R0
	MOVD	$7, R1 // RLIMIT_NOFILE
	MOVD	limit+0(FP), R2
	MOVD	$0, R3
	MOVD	$261, R8 // prlimit64
	SVC
	RET
