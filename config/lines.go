package config

import (
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// keyLines returns the line of every key and table in data, by dotted name. The
// decoder gives no position for a value that decodes but makes no sense.
func keyLines(data []byte) map[string]int {
	lines := map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		expr := p.Expression()
		switch expr.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = addKey(&p, lines, "", expr)
		case unstable.KeyValue:
			addKeyValue(&p, lines, table, expr)
		}
	}
	return lines // what was parsed before an error is better than nothing
}

// addKeyValue records a key and, if its value is an inline table, those within.
func addKeyValue(p *unstable.Parser, lines map[string]int, prefix string, kv *unstable.Node) {
	name := addKey(p, lines, prefix, kv)
	if v := kv.Value(); v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			addKeyValue(p, lines, name, it.Node())
		}
	}
}

// addKey records the key of a table or key-value below prefix and returns its
// dotted name.
func addKey(p *unstable.Parser, lines map[string]int, prefix string, n *unstable.Node) string {
	name := prefix
	for it := n.Key(); it.Next(); {
		key := it.Node()
		if name != "" {
			name += "."
		}
		name += string(key.Data)
		lines[name] = p.Shape(key.Raw).Start.Line
	}
	return name
}

// index has the keys' lines of each file.
type index struct {
	files []File
	lines []map[string]int
}

func newIndex(files []File) index {
	x := index{files: files}
	for _, f := range files {
		x.lines = append(x.lines, keyLines(f.Data))
	}
	return x
}

// of returns where key has its value from, or else the nearest table above it, or the
// first file and 0: a value that is wrong by being absent has no line of its own.
func (x index) of(key string) (file string, line int) {
	for {
		for i := len(x.files) - 1; i >= 0; i-- {
			if line, ok := x.lines[i][key]; ok {
				return x.files[i].Name, line
			}
		}
		i := strings.LastIndexByte(key, '.')
		if i < 0 {
			break
		}
		key = key[:i]
	}
	if len(x.files) > 0 {
		file = x.files[0].Name
	}
	return file, 0
}
