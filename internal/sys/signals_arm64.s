#include "textflag.h"

// onSignal is a signal handler, called by the kernel with the signal in R0. It
// writes its number to the pipe, as a byte. The kernel has saved all registers.
TEXT ·onSignal(SB),NOSPLIT|NOFRAME,$0
	SUB	$16, RSP
	MOVW	R0, (RSP)
	MOVW	·signalPipe(SB), R0
	MOVD	RSP, R1
	MOVD	$1, R2
	MOVD	$64, R8 // write
	SVC
	ADD	$16, RSP
	RET

// afterSignal is what onSignal returns to.
TEXT ·afterSignal(SB),NOSPLIT|NOFRAME,$0
	MOVD	$139, R8 // rt_sigreturn
	SVC
	BRK

// func addresses() (handler, restorer uintptr)
TEXT ·addresses(SB),NOSPLIT,$0-16
	MOVD	$·onSignal(SB), R0
	MOVD	R0, handler+0(FP)
	MOVD	$·afterSignal(SB), R0
	MOVD	R0, restorer+8(FP)
	RET
