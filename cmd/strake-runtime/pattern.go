package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/strake-containers/strake/oci/container"
)

// pattern is a POSIX extended regular expression for container ids, as crun's
// --regex takes it. Package regexp would cost every start of this program an
// eighth more (0.12 ms, most of it the tables of package unicode), for two flags.
//
// An id is short and of ASCII characters, so that the places in it where a match
// can have got to are a set of bits, and each part of a pattern a function from
// the set before it to the set behind it: no pattern takes exponential time.
type pattern func(id string, at places) places

// places is a set of offsets into an id, its length among them.
type places [4]uint64

func (p *places) add(i int)     { p[i/64] |= 1 << (i % 64) }
func (p places) has(i int) bool { return p[i/64]&(1<<(i%64)) != 0 }

func (p places) or(q places) places {
	for i := range p {
		p[i] |= q[i]
	}
	return p
}

const maxPattern = 4096

// compilePattern reads a pattern. It need not match the whole id.
func compilePattern(text string) (pattern, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("longer than %d bytes", maxPattern)
	}
	r := &patternReader{rest: text}
	p, err := r.alternatives()
	if err == nil && r.rest != "" {
		err = errors.New("a ) without its (")
	}
	return p, err
}

// matches says whether the pattern is found anywhere in the id.
func (p pattern) matches(id string) bool {
	if len(id) >= len(places{})*64 {
		return false // the library makes no such id
	}
	var all places
	for i := range len(id) + 1 {
		all.add(i)
	}
	return p(id, all) != places{}
}

type patternReader struct {
	rest  string
	depth int
}

const maxGroups = 100 // one in the other

func (r *patternReader) next() byte {
	c := r.rest[0]
	r.rest = r.rest[1:]
	return c
}

func (r *patternReader) alternatives() (pattern, error) {
	p, err := r.sequence()
	for err == nil && strings.HasPrefix(r.rest, "|") {
		r.next()
		var q pattern
		q, err = r.sequence()
		left := p
		p = func(id string, at places) places { return left(id, at).or(q(id, at)) }
	}
	return p, err
}

func (r *patternReader) sequence() (pattern, error) {
	p := pattern(func(_ string, at places) places { return at })
	for r.rest != "" && r.rest[0] != '|' && r.rest[0] != ')' {
		q, err := r.repeated()
		if err != nil {
			return nil, err
		}
		left := p
		p = func(id string, at places) places { return q(id, left(id, at)) }
	}
	return p, nil
}

func (r *patternReader) repeated() (pattern, error) {
	p, err := r.single()
	for err == nil && r.rest != "" {
		var least, most int
		switch r.rest[0] {
		case '*':
			least, most = 0, unbounded
		case '+':
			least, most = 1, unbounded
		case '?':
			least, most = 0, 1
		case '{':
			if least, most, err = r.bounds(); err != nil {
				return nil, err
			}
		default:
			return p, nil
		}
		r.next()
		p = repeat(p, least, most)
	}
	return p, err
}

const (
	unbounded   = -1
	maxRepeated = 255 // RE_DUP_MAX
)

// bounds reads {n}, {n,} or {n,m} up to the closing brace.
func (r *patternReader) bounds() (least, most int, err error) {
	text, rest, ok := strings.Cut(r.rest[1:], "}")
	from, to, both := strings.Cut(text, ",")
	least, fromErr := strconv.Atoi(from)
	most = least
	var toErr error
	if both {
		if most = unbounded; to != "" {
			most, toErr = strconv.Atoi(to)
		}
	}
	if !ok || fromErr != nil || toErr != nil || least < 0 || max(least, most) > maxRepeated || most != unbounded && most < least {
		return 0, 0, fmt.Errorf("%.20q is not {N}, {N,} or {N,M} of at most %d", r.rest, maxRepeated)
	}
	r.rest = "}" + rest
	return least, most, nil
}

func repeat(p pattern, least, most int) pattern {
	return func(id string, at places) places {
		for range least {
			before := at
			if at = p(id, at); at == before {
				break // and so it stays
			}
		}
		all := at
		// More rounds than the id has places reach nothing new.
		for n := least; n != most && at != (places{}); n++ {
			at = p(id, at)
			if all.or(at) == all {
				break
			}
			all = all.or(at)
		}
		return all
	}
}

func (r *patternReader) single() (pattern, error) {
	switch c := r.next(); c {
	case '(':
		if r.depth++; r.depth > maxGroups {
			return nil, fmt.Errorf("more than %d groups in each other", maxGroups)
		}
		p, err := r.alternatives()
		if err == nil && r.rest == "" {
			err = errors.New("a ( without its )")
		}
		if err != nil {
			return nil, err
		}
		r.next()
		r.depth--
		return p, nil
	case '*', '+', '?', '{':
		return nil, fmt.Errorf("nothing before %q to repeat", c)
	case '^':
		return func(_ string, at places) (start places) {
			if at.has(0) {
				start.add(0)
			}
			return start
		}, nil
	case '$':
		return func(id string, at places) (end places) {
			if at.has(len(id)) {
				end.add(len(id))
			}
			return end
		}, nil
	case '.':
		return character(func(byte) bool { return true }), nil
	case '[':
		return r.set()
	case '\\':
		if r.rest == "" {
			return nil, errors.New(`nothing behind \`)
		}
		if c = r.next(); c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return nil, fmt.Errorf(`\%c is not supported: \ is for the characters that mean something`, c)
		}
		return character(func(d byte) bool { return c == d }), nil
	default:
		return character(func(d byte) bool { return c == d }), nil
	}
}

// set reads a bracket expression: characters, ranges, and ^ for all others.
func (r *patternReader) set() (pattern, error) {
	text, not := strings.CutPrefix(r.rest, "^")
	// A ] that comes first is one of the set.
	end := strings.IndexByte(text[min(1, len(text)):], ']') + 1
	if end < 1 || text == "" {
		return nil, errors.New("a [ without its ]")
	}
	r.rest = text[end+1:]
	text = text[:end]
	for _, special := range []string{"[:", "[.", "[="} {
		if strings.Contains(text, special) {
			return nil, fmt.Errorf("%q is not supported in []: name the characters", special)
		}
	}
	var in [256]bool
	for len(text) > 0 {
		from, to := text[0], text[0]
		text = text[1:]
		if len(text) >= 2 && text[0] == '-' {
			to, text = text[1], text[2:]
		}
		if to < from {
			return nil, fmt.Errorf("the range %c-%c runs backwards", from, to)
		}
		for c := int(from); c <= int(to); c++ {
			in[c] = true
		}
	}
	return character(func(c byte) bool { return in[c] != not }), nil
}

// character matches one character.
func character(fits func(byte) bool) pattern {
	return func(id string, at places) (after places) {
		for i := range len(id) {
			if at.has(i) && fits(id[i]) {
				after.add(i + 1)
			}
		}
		return after
	}
}

// each calls do for the container of the given id or, with regex, for every
// container whose id the pattern fits; one that has gone meanwhile is not missed.
func (a *app) each(id string, regex bool, do func(*container.Container) error) error {
	if !regex {
		c, err := container.Load(a.root, id)
		if err != nil {
			return err
		}
		return do(c)
	}
	p, err := compilePattern(id)
	if err != nil {
		return fmt.Errorf("--regex %.100q: %w", id, err)
	}
	states, err := container.List(a.root)
	errs := []error{err}
	for _, s := range states {
		if !p.matches(s.ID) {
			continue
		}
		c, err := container.Load(a.root, s.ID)
		if err == nil {
			err = do(c)
		}
		if !errors.Is(err, container.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
