//go:build !cgo

package testutil

const linked = false
