// Package sanity checks Rockpool from outside: its wire definition against the published one, and the running driver
// with the upstream conformance suite.
package sanity

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// TestProto fails on one difference between our protos and the published descriptors.
func TestProto(t *testing.T) {
	for _, pair := range protos() {
		t.Run(pair.file, func(t *testing.T) {
			for _, line := range differences(pair.ours(t), pair.theirs) {
				t.Error(line)
			}
		})
	}
}

type protoPair struct {
	file   string
	theirs *descriptorpb.FileDescriptorProto
}

func protos() []protoPair {
	return []protoPair{
		{"csi.proto", protodesc.ToFileDescriptorProto(csi.File_csi_proto)},
		{"pluginregistration.proto", protodesc.ToFileDescriptorProto(registrationFile())},
	}
}

// registrationFile finds the descriptor by a message, since the name of its variable depends on a path.
func registrationFile() protoreflect.FileDescriptor {
	return (&registration.PluginInfo{}).ProtoReflect().Descriptor().ParentFile()
}

// ours compiles the file and reads it again with the published extensions known, so that both sides hold the same Go
// types for the options.
func (pair protoPair) ours(t *testing.T) *descriptorpb.FileDescriptorProto {
	t.Helper()
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{"../proto"}}),
	}
	files, err := compiler.Compile(context.Background(), pair.file)
	if err != nil {
		t.Fatalf("failed to compile %s: %v", pair.file, err)
	}
	raw, err := proto.Marshal(protodesc.ToFileDescriptorProto(files[0]))
	if err != nil {
		t.Fatal(err)
	}
	file := &descriptorpb.FileDescriptorProto{}
	if err := proto.Unmarshal(raw, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// differences says what is missing, what is too much and what is not the same, one line each.
func differences(ours, theirs *descriptorpb.FileDescriptorProto) []string {
	have, want := elements(ours), elements(theirs)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		switch text, ok := have[name]; {
		case !ok:
			lines = append(lines, fmt.Sprintf("%s: missing", name))
		case text != want[name]:
			lines = append(lines, fmt.Sprintf("%s: is {%s}, has to be {%s}", name, text, want[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[name]; !ok {
			lines = append(lines, fmt.Sprintf("%s: not in the published definition", name))
		}
	}
	return lines
}

// elements takes a file apart: every message, field, oneof, enum, value, extension, service and method by its full
// name, with all that its descriptor says and without what it holds. The order in the file does not count.
func elements(file *descriptorpb.FileDescriptorProto) map[string]string {
	found := map[string]string{}
	head := proto.CloneOf(file)
	head.Name, head.SourceCodeInfo = nil, nil // The path and the comments are our own.
	head.MessageType, head.EnumType, head.Service, head.Extension = nil, nil, nil, nil
	slices.Sort(head.Dependency)
	add(found, "file", file.GetPackage(), head)
	scope := "." + file.GetPackage()
	for _, message := range file.MessageType {
		addMessage(found, scope, message)
	}
	for _, enum := range file.EnumType {
		addEnum(found, scope, enum)
	}
	for _, extension := range file.Extension {
		add(found, "extension", scope+"."+extension.GetName(), extension)
	}
	for _, service := range file.Service {
		addService(found, scope, service)
	}
	return found
}

func addMessage(found map[string]string, scope string, message *descriptorpb.DescriptorProto) {
	name := scope + "." + message.GetName()
	head := proto.CloneOf(message)
	head.Field, head.NestedType, head.EnumType, head.OneofDecl, head.Extension = nil, nil, nil, nil, nil
	add(found, "message", name, head)
	for _, field := range message.Field {
		field := proto.CloneOf(field)
		kind := "field"
		if field.OneofIndex != nil {
			kind = "field of oneof " + message.OneofDecl[field.GetOneofIndex()].GetName()
			field.OneofIndex = nil
		}
		add(found, kind, name+"."+field.GetName(), field)
	}
	for _, oneof := range message.OneofDecl {
		add(found, "oneof", name+"."+oneof.GetName(), oneof)
	}
	for _, nested := range message.NestedType {
		addMessage(found, name, nested)
	}
	for _, enum := range message.EnumType {
		addEnum(found, name, enum)
	}
	for _, extension := range message.Extension {
		add(found, "extension", name+"."+extension.GetName(), extension)
	}
}

func addEnum(found map[string]string, scope string, enum *descriptorpb.EnumDescriptorProto) {
	name := scope + "." + enum.GetName()
	head := proto.CloneOf(enum)
	head.Value = nil
	add(found, "enum", name, head)
	for _, value := range enum.Value {
		add(found, "value", name+"."+value.GetName(), value)
	}
}

func addService(found map[string]string, scope string, service *descriptorpb.ServiceDescriptorProto) {
	name := scope + "." + service.GetName()
	head := proto.CloneOf(service)
	head.Method = nil
	add(found, "service", name, head)
	for _, method := range service.Method {
		method := proto.CloneOf(method)
		if proto.Size(method.GetOptions()) == 0 {
			method.Options = nil // "{}" and ";" after a method mean the same.
		}
		add(found, "method", name+"."+method.GetName(), method)
	}
}

// add keeps unknown fields too: an option that we do not know must not be invisible.
func add(found map[string]string, kind, name string, descriptor proto.Message) {
	text := prototext.MarshalOptions{EmitUnknown: true}.Format(descriptor)
	found[kind+" "+strings.TrimPrefix(name, ".")] = text
}
