package layer

// Limits bound what one layer may cost. A zero field has a default.
type Limits struct {
	Bytes   int64 // unpacked file content; default 128 GiB
	Entries int64 // tar entries; default 4,000,000
	Ratio   int64 // unpacked over compressed bytes, beyond the first GiB; default 200
}
