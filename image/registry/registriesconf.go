package registry

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/strake-containers/strake/internal/sys"
)

// ErrBlocked says that registries.conf forbids a registry.
var ErrBlocked = errors.New("blocked")

// registriesConf is containers' registries.conf, version 2, with its drop-ins. What
// it has and we have not is refused by name, at the first pull that it concerns.
type registriesConf struct {
	Search      []string           `toml:"unqualified-search-registries"`
	ShortMode   string             `toml:"short-name-mode"`
	Helpers     []string           `toml:"credential-helpers"` // asked when the caller gave no credentials
	LayerHelper string             `toml:"additional-layer-store-auth-helper"`
	Registries  []registryTable    `toml:"registry"`
	Aliases     map[string]string  `toml:"aliases"`
	V1          map[string]anyList `toml:"registries"`
}

type anyList struct {
	Registries []string `toml:"registries"`
}

type registryTable struct {
	Prefix       string        `toml:"prefix"`
	Location     string        `toml:"location"`
	Insecure     bool          `toml:"insecure"`
	Blocked      bool          `toml:"blocked"`
	ByDigestOnly bool          `toml:"mirror-by-digest-only"`
	Mirrors      []mirrorTable `toml:"mirror"`
	file         string
}

type mirrorTable struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	PullFrom string `toml:"pull-from-mirror"`
}

// readRegistriesConf reads path and path.d/*.conf; later files win, table by table
// of the same prefix. No file is no rule.
func readRegistriesConf(path string) (registriesConf, error) {
	var all registriesConf
	if path == "" {
		return all, nil
	}
	files := []string{path}
	drop, err := os.ReadDir(path + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return all, err
	}
	for _, e := range drop { // sorted by name
		if strings.HasSuffix(e.Name(), ".conf") {
			files = append(files, filepath.Join(path+".d", e.Name()))
		}
	}
	for _, file := range files {
		data, err := sys.ReadFile(file, maxHostsFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return all, err
		}
		if err := all.merge(file, data); err != nil {
			return all, err
		}
	}
	return all, nil
}

func (c *registriesConf) merge(file string, data []byte) error {
	var f registriesConf
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&f); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
			line, _ := unknown.Errors[0].Position()
			return fmt.Errorf("%s:%d: %s: unknown key", file, line, strings.Join(unknown.Errors[0].Key(), "."))
		}
		return fmt.Errorf("%s: %w", file, err)
	}
	if f.LayerHelper != "" {
		return fmt.Errorf("%s: additional-layer-store-auth-helper: %w: there are no additional layer stores here", file, ErrUnsupported)
	}
	if f.V1 != nil {
		return fmt.Errorf("%s: [registries.*]: %w: this is version 1 of the file: write [[registry]] tables", file, ErrUnsupported)
	}
	for i, t := range f.Registries {
		t.file = file
		if t.Prefix == "" {
			t.Prefix = t.Location
		}
		if t.Location == "" {
			t.Location = t.Prefix
		}
		if err := t.check(); err != nil {
			return fmt.Errorf("%s: registry[%d]: %w", file, i, err)
		}
		c.Registries = slices.DeleteFunc(c.Registries, func(o registryTable) bool { return o.Prefix == t.Prefix && o.file != file })
		if slices.ContainsFunc(c.Registries, func(o registryTable) bool { return o.Prefix == t.Prefix }) {
			return fmt.Errorf("%s: registry[%d]: prefix %q is there twice", file, i, t.Prefix)
		}
		c.Registries = append(c.Registries, t)
	}
	if f.Search != nil {
		c.Search = f.Search
	}
	if len(f.Helpers) > 0 {
		c.Helpers = f.Helpers
	}
	if f.ShortMode != "" {
		c.ShortMode = f.ShortMode
	}
	for name, target := range f.Aliases {
		if c.Aliases == nil {
			c.Aliases = map[string]string{}
		}
		c.Aliases[name] = target
	}
	return nil
}

func (t registryTable) check() error {
	if t.Prefix == "" {
		return errors.New("neither prefix nor location")
	}
	if strings.HasPrefix(t.Prefix, "*.") && t.Location == t.Prefix {
		if len(t.Mirrors) == 0 && !t.Insecure && !t.Blocked {
			return fmt.Errorf("prefix %q says nothing", t.Prefix)
		}
	} else if strings.Contains(strings.TrimPrefix(t.Prefix, "*."), "*") || strings.Contains(t.Location, "*") {
		return fmt.Errorf("prefix %q: * stands for the beginning of a host name only", t.Prefix)
	}
	for i, m := range t.Mirrors {
		if m.Location == "" || strings.ContainsAny(m.Location, "* ") || strings.Contains(m.Location, "://") {
			return fmt.Errorf("mirror[%d]: location %q is not HOST[:PORT][/PATH]", i, m.Location)
		}
		switch m.PullFrom {
		case "", "all", "digest-only", "tag-only":
		default:
			return fmt.Errorf("mirror[%d]: pull-from-mirror %q is not one of all, digest-only, tag-only", i, m.PullFrom)
		}
		if m.PullFrom != "" && t.ByDigestOnly {
			return fmt.Errorf("mirror[%d]: pull-from-mirror and mirror-by-digest-only exclude each other", i)
		}
	}
	return nil
}

// match is how much of repository (with its host) the table's prefix covers; 0 is
// none of it.
func (t registryTable) match(repository string) int {
	host, _, _ := strings.Cut(repository, "/")
	if suffix, ok := strings.CutPrefix(t.Prefix, "*"); ok {
		if strings.HasSuffix(host, suffix) && len(host) > len(suffix) {
			return len(host)
		}
		return 0
	}
	rest, ok := strings.CutPrefix(repository, t.Prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return 0
	}
	return len(t.Prefix)
}

// find is the table with the longest prefix for a repository.
func (c registriesConf) find(repository string) (best registryTable, covered int) {
	for _, t := range c.Registries {
		n := t.match(repository)
		if n > covered || n > 0 && n == covered && len(t.Prefix) > len(best.Prefix) {
			best, covered = t, n
		}
	}
	return best, covered
}

// endpoints lists where the tables send a reference: mirrors, then the location.
// TLS settings of each come from certs.d. Nil is that no table is for it.
func (c registriesConf) endpoints(configPath string, ref Reference) ([]endpoint, error) {
	t, covered := c.find(ref.Repository())
	if covered == 0 {
		return nil, nil
	}
	if t.Blocked {
		return nil, fmt.Errorf("registry %s: %w by the prefix %q in %s", ref.Domain, ErrBlocked, t.Prefix, t.file)
	}
	rest := ref.Repository()[covered:]
	var all []endpoint
	for _, m := range t.Mirrors {
		if m.PullFrom == "tag-only" && ref.Digest != "" {
			continue
		}
		eps, err := locate(configPath, m.Location+rest, m.Insecure)
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", m.Location, err)
		}
		for i := range eps {
			eps[i].push = false
			eps[i].upstream = eps[i].base.Host == upstreamHost(ref.Domain)
			eps[i].resolve = eps[i].resolve && m.PullFrom != "digest-only" && !t.ByDigestOnly
		}
		all = append(all, eps...)
	}
	location := t.Location
	if strings.HasPrefix(location, "*") {
		location = ref.Domain
	}
	eps, err := locate(configPath, location+rest, t.Insecure)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", location, err)
	}
	return append(all, eps...), nil
}

// locate is a repository at its own address, with what certs.d says of that host
// besides mirrors.
func locate(configPath, repository string, insecure bool) ([]endpoint, error) {
	ref, err := ParseReference(repository)
	if err != nil {
		return nil, err
	}
	found, err := endpoints(configPath, ref.Domain)
	if err != nil {
		return nil, err
	}
	own := found[len(found)-1:]
	if own[0].fallback {
		own = found[len(found)-2:]
	}
	if insecure && own[0].tls == nil { // over TLS, whoever it is; else in plain text
		secure := own[0]
		secure.base = url.URL{Scheme: "https", Host: upstreamHost(ref.Domain), Path: "/v2"}
		secure.tls, secure.fallback = &tls.Config{InsecureSkipVerify: true}, false
		plain := secure
		plain.base.Scheme, plain.tls, plain.fallback = "http", nil, true
		own = []endpoint{secure, plain}
	}
	for i := range own {
		own[i].path, own[i].exact = ref.Path, true
	}
	return own, nil
}

// Expand makes a short name whole, by registries.conf: an alias, else the one
// registry to search. A name with a host is itself; without a file docker.io is
// the host, as everywhere.
func (c *Client) Expand(name string) (string, error) {
	if !isShort(name) {
		return name, nil
	}
	file := c.files.Load().registriesConf
	conf, err := readRegistriesConf(file)
	if err != nil {
		return "", err
	}
	base, rest := name, ""
	if i := strings.IndexAny(name, ":@"); i >= 0 {
		base, rest = name[:i], name[i:]
	}
	if target := conf.Aliases[base]; target != "" {
		return target + rest, nil
	}
	switch len(conf.Search) {
	case 0:
		return name, nil
	case 1:
		return conf.Search[0] + "/" + name, nil
	}
	return "", fmt.Errorf("%w %q: it may be of any of %s (unqualified-search-registries): give the host, or an alias in %s",
		ErrInvalidReference, name, strings.Join(conf.Search, ", "), file)
}

// isShort reports whether a name has no host.
func isShort(name string) bool {
	first, _, slash := strings.Cut(name, "/")
	return name != "" && (!slash || !strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first)
}
