#include "textflag.h"

// onSignal is a signal handler, called by the kernel with the signal in DI. It
// writes its number to the pipe, as a byte. The kernel has saved all registers.
TEXT ·onSignal(SB),NOSPLIT|NOFRAME,$0
	PUSHQ	DI
	MOVL	·signalPipe(SB), DI
	MOVQ	SP, SI
	MOVL	$1, DX
	MOVL	$1, AX // write
	SYSCALL
	POPQ	DI
	RET

// afterSignal is what onSignal returns to.
TEXT ·afterSignal(SB),NOSPLIT|NOFRAME,$0
	MOVL	$15, AX // rt_sigreturn
	SYSCALL
	INT	$3

// func addresses() (handler, restorer uintptr)
TEXT ·addresses(SB),NOSPLIT,$0-16
	LEAQ	·onSignal(SB), AX
	MOVQ	AX, handler+0(FP)
	LEAQ	·afterSignal(SB), AX
	MOVQ	AX, restorer+8(FP)
	RET
