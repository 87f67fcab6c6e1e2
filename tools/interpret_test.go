package tools

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// run interprets what schema3 expands to, as bpftrace would: assignments and
// nested ifs over 64-bit unsigned integers. It returns $slot.
func run(tokens []string, ns uint64) (slot int, err error) {
	m := machine{variables: map[string]uint64{"$ns": ns}, tokens: tokens}
	for m.at < len(m.tokens) && m.err == nil {
		m.statement(true)
	}
	return int(m.variables["$slot"]), m.err
}

var tokenPattern = regexp.MustCompile(`\$\w+|\w+|>>|<<|>=|[-+*/(){};=>]`)

// tokenize splits a program, of which it has to understand all.
func tokenize(program string) ([]string, error) {
	tokens := tokenPattern.FindAllString(program, -1)
	if joined := strings.Join(tokens, ""); joined != strings.Join(strings.Fields(program), "") {
		return nil, fmt.Errorf("not understood in full: %s", joined)
	}
	return tokens, nil
}

type machine struct {
	variables map[string]uint64
	tokens    []string
	at        int
	err       error
}

func (m *machine) next() string {
	if m.at == len(m.tokens) {
		m.err = fmt.Errorf("unexpected end")
		return ""
	}
	m.at++
	return m.tokens[m.at-1]
}

func (m *machine) peek() string {
	if m.at < len(m.tokens) {
		return m.tokens[m.at]
	}
	return ""
}

func (m *machine) want(token string) {
	if got := m.next(); got != token && m.err == nil {
		m.err = fmt.Errorf("%q where %q should be", got, token)
	}
}

func (m *machine) statement(execute bool) {
	if m.peek() == "if" {
		m.conditional(execute)
		return
	}
	name := m.next()
	m.want("=")
	value := m.expression()
	m.want(";")
	if execute {
		m.variables[name] = value
	}
}

func (m *machine) conditional(execute bool) {
	m.want("if")
	m.want("(")
	left := m.expression()
	operator := m.next()
	right := m.expression()
	m.want(")")
	holds := left >= right
	if operator == ">" {
		holds = left > right
	}
	m.block(execute && holds)
	if m.peek() == "else" {
		m.next()
		m.block(execute && !holds)
	}
}

func (m *machine) block(execute bool) {
	m.want("{")
	for m.peek() != "}" && m.err == nil {
		m.statement(execute)
	}
	m.want("}")
}

// expression is a term and what is done to it from left to right: the macro
// puts all else in parentheses.
func (m *machine) expression() uint64 {
	value := m.term()
	for {
		switch m.peek() {
		case "+":
			m.next()
			value += m.term()
		case "-":
			m.next()
			value -= m.term()
		case "*":
			m.next()
			value *= m.term()
		case ">>":
			m.next()
			value >>= m.term()
		case "<<":
			m.next()
			value <<= m.term()
		default:
			return value
		}
	}
}

func (m *machine) term() uint64 {
	switch token := m.next(); {
	case token == "(":
		if m.peek() == "uint64" {
			m.next()
			m.want(")")
			return m.term()
		}
		value := m.expression()
		m.want(")")
		return value
	case strings.HasPrefix(token, "$"):
		value, ok := m.variables[token]
		if !ok && m.err == nil {
			m.err = fmt.Errorf("%s has no value", token)
		}
		return value
	default:
		n, err := strconv.ParseUint(token, 10, 64)
		if err != nil && m.err == nil {
			m.err = err
		}
		return n
	}
}
