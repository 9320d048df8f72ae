package pod

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lockOrder is what doc.go says of locks: which may be taken while another is held.
var lockOrder = map[string][]string{
	"sandbox.saving":   {"sandbox.mu"},
	"container.saving": {"sandbox.mu"},
	"Manager.mu":       {"tracker.mu"},
	"sandbox.mu":       {"tracker.mu"},
}

// overDisk are the locks under which records are written; they guard nothing else.
var overDisk = []string{"sandbox.saving", "container.saving"}

// The lock order is that of the package comment, and no lock is held over I/O to a
// plugin, a monitor, a registry or the disk, nor while something is waited for: read from
// the source, by what every function does and calls.
func TestLocks(t *testing.T) {
	a := analyse(t)
	for _, bad := range a.violations() {
		t.Error(bad)
	}
	for held, taken := range a.edges {
		for lock, at := range taken {
			if !slices.Contains(lockOrder[held], lock) {
				t.Errorf("%s: %s is taken while %s is held", a.where(at), lock, held)
			}
		}
	}
	for held, taken := range lockOrder {
		for _, lock := range taken {
			if _, seen := a.edges[held][lock]; !seen {
				t.Errorf("%s is never taken under %s: the order says too much", lock, held)
			}
		}
	}
}

// The analysis itself sees what it is for.
func TestLocksAreSeen(t *testing.T) {
	const source = `package pod
import ("os"; "sync")
type sandbox struct { mu sync.Mutex; c chan int }
type Manager struct { mu sync.Mutex }
func (m *Manager) order(p *sandbox) { p.mu.Lock(); defer p.mu.Unlock(); m.deep() }
func (m *Manager) deep() { m.mu.Lock(); m.mu.Unlock() }
func (m *Manager) disk(p *sandbox) { p.mu.Lock(); file(); p.mu.Unlock(); file() }
func file() { _ = os.Remove("x") }
func (m *Manager) wait(p *sandbox) { m.mu.Lock(); if p == nil { m.mu.Unlock(); return }; <-p.c; m.mu.Unlock() }
func (m *Manager) fine(p *sandbox) { m.mu.Lock(); go file(); select { case <-p.c: default: }; m.mu.Unlock(); <-p.c }
func (m *Manager) callback(p *sandbox) { m.under(func() { file() }) }
func (m *Manager) under(fn func()) { m.mu.Lock(); fn(); m.mu.Unlock() }
`
	a := newAnalysis(t, map[string]string{"x.go": source})
	var got []string
	for _, v := range a.violations() {
		_, what, _ := strings.Cut(v, ": ")
		got = append(got, what)
	}
	slices.Sort(got)
	want := []string{
		"Manager.mu is held over a receive", "Manager.mu is held over os.Remove", "sandbox.mu is held over os.Remove",
	}
	if !slices.Equal(got, want) {
		t.Errorf("violations %q, want %q", got, want)
	}
	if _, seen := a.edges["sandbox.mu"]["Manager.mu"]; !seen || len(a.edges) != 1 {
		t.Errorf("edges %v", a.edges)
	}
}

// analysis is what is known of a package's functions. A function literal counts as one;
// of one that is handed to a function of the package, that is known to whoever calls it.
type analysis struct {
	tb    testing.TB
	fset  *token.FileSet
	info  *types.Info
	funcs map[any]*effects // by *types.Func or *ast.FuncLit
	edges map[string]map[string]token.Pos
	found map[string]bool
	// handed has the functions that calls of the package hand to a parameter.
	handed map[types.Object][]any
	again  bool // something new was learnt
}

// effects are of one function, with all that it calls.
type effects struct {
	body   *ast.BlockStmt
	takes  map[string]bool
	blocks map[string]bool // what it does that may take long
}

func analyse(t *testing.T) *analysis {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, path := range paths {
		if !strings.HasSuffix(path, "_test.go") {
			files[path] = ""
		}
	}
	return newAnalysis(t, files)
}

// newAnalysis reads files; an empty text is that of the file of that name.
func newAnalysis(tb testing.TB, files map[string]string) *analysis {
	tb.Helper()
	a := &analysis{
		tb: tb, fset: token.NewFileSet(), funcs: map[any]*effects{}, edges: map[string]map[string]token.Pos{}, found: map[string]bool{},
		handed: map[types.Object][]any{},
		info: &types.Info{
			Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
			Types: map[ast.Expr]types.TypeAndValue{},
		},
	}
	var parsed []*ast.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var source any
		if files[name] != "" {
			source = files[name]
		}
		f, err := parser.ParseFile(a.fset, name, source, parser.SkipObjectResolution)
		if err != nil {
			tb.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	// Other packages stay unknown: what is theirs has no type, and that is no matter.
	config := types.Config{Error: func(error) {}, Importer: noImports{}}
	_, _ = config.Check("pod", a.fset, parsed, a.info)
	for _, f := range parsed {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Body != nil {
					a.add(a.info.Defs[n.Name], n.Body)
				}
			case *ast.FuncLit:
				a.add(n, n.Body)
			}
			return true
		})
	}
	for a.again = true; a.again; { // until nothing new is learnt
		a.again = false
		for _, e := range a.funcs {
			a.block(e, e.body.List, nil)
		}
	}
	return a
}

func (a *analysis) add(key any, body *ast.BlockStmt) {
	a.funcs[key] = &effects{body: body, takes: map[string]bool{}, blocks: map[string]bool{}}
}

func (a *analysis) where(p token.Pos) string { return a.fset.Position(p).String() }

func (a *analysis) violations() []string { return slices.Sorted(maps.Keys(a.found)) }

type noImports struct{}

func (noImports) Import(path string) (*types.Package, error) {
	return types.NewPackage(path, path[strings.LastIndex(path, "/")+1:]), nil
}

func learn(a *analysis, set map[string]bool, what string) {
	if !set[what] {
		set[what], a.again = true, true
	}
}

// block follows statements in their order; it returns the locks that are held after
// them, and whether control can get there.
func (a *analysis) block(e *effects, list []ast.Stmt, held []string) ([]string, bool) {
	for _, s := range list {
		var on bool
		if held, on = a.statement(e, s, held); !on {
			return held, false
		}
	}
	return held, true
}

func (a *analysis) statement(e *effects, s ast.Stmt, held []string) ([]string, bool) {
	switch s := s.(type) {
	case *ast.ExprStmt:
		if call, ok := s.X.(*ast.CallExpr); ok {
			if lock, verb := a.lock(call); lock != "" {
				return a.locked(e, call, lock, verb, held), true
			}
		}
		a.expr(e, s.X, held)
	case *ast.DeferStmt:
		if lock, _ := a.lock(s.Call); lock != "" {
			return held, true // it is held to the end
		}
		a.expr(e, s.Call, held)
	case *ast.GoStmt:
		for _, arg := range s.Call.Args {
			a.expr(e, arg, held)
		}
	case *ast.ReturnStmt:
		for _, r := range s.Results {
			a.expr(e, r, held)
		}
		return held, false
	case *ast.BranchStmt:
		return held, false
	case *ast.BlockStmt:
		return a.block(e, s.List, held)
	case *ast.LabeledStmt:
		return a.statement(e, s.Stmt, held)
	case *ast.IfStmt:
		held = a.simple(e, s.Init, held)
		a.expr(e, s.Cond, held)
		ways := [][]ast.Stmt{s.Body.List, nil}
		if s.Else != nil {
			ways[1] = []ast.Stmt{s.Else}
		}
		return a.ways(e, ways, held)
	case *ast.ForStmt:
		held = a.simple(e, s.Init, held)
		a.expr(e, s.Cond, held)
		a.block(e, s.Body.List, held)
		a.simple(e, s.Post, held)
	case *ast.RangeStmt:
		a.expr(e, s.X, held)
		a.block(e, s.Body.List, held)
	case *ast.SwitchStmt:
		held = a.simple(e, s.Init, held)
		a.expr(e, s.Tag, held)
		return a.ways(e, a.cases(e, s.Body, held), held)
	case *ast.TypeSwitchStmt:
		return a.ways(e, a.cases(e, s.Body, held), held)
	case *ast.SelectStmt:
		return a.choice(e, s, held)
	case *ast.SendStmt:
		a.expr(e, s.Value, held)
		a.blocking(e, s.Pos(), "a send", held)
	default:
		a.simple(e, s, held)
	}
	return held, true
}

// simple is a statement that neither branches nor locks.
func (a *analysis) simple(e *effects, s ast.Stmt, held []string) []string {
	if s == nil {
		return held
	}
	if x, ok := s.(*ast.ExprStmt); ok {
		held, _ = a.statement(e, x, held)
		return held
	}
	ast.Inspect(s, func(n ast.Node) bool {
		if x, ok := n.(ast.Expr); ok {
			a.expr(e, x, held)
			return false
		}
		return true
	})
	return held
}

// ways are alternatives, of which nil does nothing. Held afterwards is what all hold
// that go on.
func (a *analysis) ways(e *effects, ways [][]ast.Stmt, held []string) ([]string, bool) {
	var after []string
	on := false
	for _, w := range ways {
		h, goesOn := a.block(e, w, slices.Clone(held))
		switch {
		case !goesOn:
		case !on:
			after, on = h, true
		default:
			after = slices.DeleteFunc(after, func(l string) bool { return !slices.Contains(h, l) })
		}
	}
	return after, on
}

func (a *analysis) cases(e *effects, body *ast.BlockStmt, held []string) [][]ast.Stmt {
	var ways [][]ast.Stmt
	byDefault := false
	for _, s := range body.List {
		c := s.(*ast.CaseClause)
		for _, x := range c.List {
			a.expr(e, x, held)
		}
		byDefault = byDefault || c.List == nil
		// A break ends the switch alone.
		ways = append(ways, slices.DeleteFunc(slices.Clone(c.Body), func(s ast.Stmt) bool {
			b, ok := s.(*ast.BranchStmt)
			return ok && b.Tok == token.BREAK && b.Label == nil
		}))
	}
	if !byDefault {
		ways = append(ways, nil)
	}
	return ways
}

// choice is a select, which waits unless it has a default.
func (a *analysis) choice(e *effects, s *ast.SelectStmt, held []string) ([]string, bool) {
	var ways [][]ast.Stmt
	waits := true
	for _, one := range s.Body.List {
		c := one.(*ast.CommClause)
		waits = waits && c.Comm != nil
		ways = append(ways, c.Body)
	}
	if waits {
		a.blocking(e, s.Pos(), "a select", held)
	}
	return a.ways(e, ways, held)
}

// lock is the name of the mutex that a call locks or unlocks; "" for another call.
func (a *analysis) lock(call *ast.CallExpr) (name, verb string) {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || method.Sel.Name != "Lock" && method.Sel.Name != "Unlock" {
		return "", ""
	}
	switch mutex := method.X.(type) {
	case *ast.SelectorExpr:
		if s := a.info.Selections[mutex]; s != nil {
			owner := s.Recv()
			if p, ok := owner.(*types.Pointer); ok {
				owner = p.Elem()
			}
			if named, ok := owner.(*types.Named); ok {
				return named.Obj().Name() + "." + mutex.Sel.Name, method.Sel.Name
			}
		}
	case *ast.Ident:
		return "sandbox.mu", method.Sel.Name // a parameter: join's, which locks no other
	}
	a.tb.Errorf("%s: whose lock is this?", a.where(call.Pos()))
	return "", ""
}

func (a *analysis) locked(e *effects, call *ast.CallExpr, lock, verb string, held []string) []string {
	if verb == "Unlock" {
		return slices.DeleteFunc(slices.Clone(held), func(l string) bool { return l == lock })
	}
	learn(a, e.takes, lock)
	a.taken(lock, call.Pos(), held)
	return append(slices.Clone(held), lock)
}

func (a *analysis) taken(lock string, at token.Pos, held []string) {
	for _, h := range held {
		if a.edges[h] == nil {
			a.edges[h] = map[string]token.Pos{}
		}
		a.edges[h][lock] = at
	}
}

// blocking is something that may take long.
func (a *analysis) blocking(e *effects, at token.Pos, what string, held []string) {
	learn(a, e.blocks, what)
	for _, h := range held {
		if !slices.Contains(overDisk, h) {
			a.found[fmt.Sprintf("%s: %s is held over %s", a.where(at), h, what)] = true
		}
	}
}

// expr follows an expression's calls and receives.
func (a *analysis) expr(e *effects, x ast.Expr, held []string) {
	if x == nil {
		return
	}
	ast.Inspect(x, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false // known when it is called
		case *ast.UnaryExpr:
			if n.Op == token.ARROW {
				a.blocking(e, n.Pos(), "a receive", held)
			}
		case *ast.CallExpr:
			a.call(e, n, held)
		}
		return true
	})
}

// elsewhere are functions of others that call what they are given on another goroutine.
var elsewhere = []string{"Go", "AfterFunc"}

func (a *analysis) call(e *effects, call *ast.CallExpr, held []string) {
	callee := a.callee(call.Fun)
	if callee != nil {
		if f, ok := callee.(*types.Func); ok {
			a.hand(f, call.Args)
		}
		a.run(e, callee, call.Pos(), held)
		return
	}
	if what := a.foreign(call.Fun); what != "" {
		a.blocking(e, call.Pos(), what, held)
	}
	if s, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains(elsewhere, s.Sel.Name) {
		return
	}
	for _, arg := range call.Args {
		a.run(e, a.callee(arg), call.Pos(), held)
	}
}

// run is a call of a function that is known.
func (a *analysis) run(e *effects, callee any, at token.Pos, held []string) {
	if v, ok := callee.(*types.Var); ok {
		for _, f := range a.handed[v] {
			a.run(e, f, at, held)
		}
		return
	}
	called := a.funcs[callee]
	if called == nil {
		return
	}
	for lock := range called.takes {
		learn(a, e.takes, lock)
		a.taken(lock, at, held)
	}
	for what := range called.blocks {
		a.blocking(e, at, what, held)
	}
}

// hand notes which functions are given to which parameters.
func (a *analysis) hand(f *types.Func, args []ast.Expr) {
	if f.FullName() == "(*pod.tracker).start" || f.Name() == "join" || f.Name() == "undoLater" {
		return // they run it on a goroutine of its own
	}
	params := f.Signature().Params()
	for i, arg := range args {
		if i >= params.Len() {
			return
		}
		given := a.callee(arg)
		if given == nil {
			continue
		}
		if p := params.At(i); !slices.Contains(a.handed[p], given) {
			a.handed[p] = append(a.handed[p], given)
			a.again = true
		}
	}
}

// callee is the function or the parameter that is called; nil for what is not of the
// package.
func (a *analysis) callee(x ast.Expr) any {
	var id *ast.Ident
	switch x := x.(type) {
	case *ast.FuncLit:
		return x
	case *ast.Ident:
		id = x
	case *ast.SelectorExpr:
		id = x.Sel
	case *ast.IndexExpr:
		return a.callee(x.X)
	default:
		return nil
	}
	switch o := a.info.Uses[id].(type) {
	case *types.Func:
		if a.funcs[o.Origin()] != nil {
			return o.Origin()
		}
	case *types.Var:
		if _, ok := o.Type().Underlying().(*types.Signature); ok && !o.IsField() {
			return o
		}
	}
	return nil
}

// quick are functions of packages with I/O that do none.
var quick = []string{
	"os.IsNotExist", "os.Getpid", "os.Geteuid", "os.Getenv", "m.store.PodDir", "m.store.ContainerDir", "m.plugins().Active",
	"client.NewHeld",
}

// foreign names a call of somebody else's that is I/O; "" for one that is not.
func (a *analysis) foreign(x ast.Expr) string {
	s, ok := x.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	name := types.ExprString(x)
	if slices.Contains(quick, name) {
		return ""
	}
	if sel := a.info.Selections[s]; sel != nil && types.IsInterface(sel.Recv()) && s.Sel.Name != "Error" {
		return name // Monitor, NetNS, Images: they are for I/O alone
	}
	for _, io := range []string{"os.", "exec.", "atomicfile.", "sys.", "client.Start", "client.Connect", "client.ReadExit", "hooks.", "io.", "m.store.", "m.o.Network.", "m.plugins().", "plugins.", "nri."} {
		if strings.HasPrefix(name, io) {
			return name
		}
	}
	if s.Sel.Name == "Wait" {
		return name
	}
	return ""
}
