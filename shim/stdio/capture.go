package stdio

// capture keeps the first bytes of a stream. It belongs to one reader until that
// is done.
type capture struct {
	limit int
	data  []byte
}

func (c *capture) write(p []byte) {
	room := max(c.limit-len(c.data), 0)
	c.data = append(c.data, p[:min(room, len(p))]...)
}
