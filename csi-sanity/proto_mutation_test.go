package sanity

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// TestProtoNoticesEveryMutation changes a copy of our own definition in every way that the comparison is there for.
func TestProtoNoticesEveryMutation(t *testing.T) {
	ours := protos()[0].ours(t)
	for name, mutate := range mutations {
		t.Run(name, func(t *testing.T) {
			mutant := proto.CloneOf(ours)
			element := mutate(mutant)
			lines := differences(mutant, ours)
			if !strings.Contains(strings.Join(lines, "\n"), element+":") {
				t.Errorf("%s was changed, noticed was %q", element, lines)
			}
		})
	}
}

// TestProtoNoticesEveryRemoval takes away each field, value and method in turn.
func TestProtoNoticesEveryRemoval(t *testing.T) {
	ours := protos()[0].ours(t)
	removals := 0
	expect := func(element string, mutant *descriptorpb.FileDescriptorProto) {
		removals++
		if lines := differences(mutant, ours); len(lines) != 1 || !strings.Contains(lines[0], element+": missing") {
			t.Errorf("%s was removed, noticed was %q", element, lines)
		}
	}
	for i, message := range ours.MessageType {
		for j, field := range message.Field {
			mutant := proto.CloneOf(ours)
			mutant.MessageType[i].Field = append(mutant.MessageType[i].Field[:j], mutant.MessageType[i].Field[j+1:]...)
			expect(message.GetName()+"."+field.GetName(), mutant)
		}
	}
	for i, enum := range ours.EnumType {
		for j, value := range enum.Value {
			mutant := proto.CloneOf(ours)
			mutant.EnumType[i].Value = append(mutant.EnumType[i].Value[:j], mutant.EnumType[i].Value[j+1:]...)
			expect(enum.GetName()+"."+value.GetName(), mutant)
		}
	}
	for i, service := range ours.Service {
		for j, method := range service.Method {
			mutant := proto.CloneOf(ours)
			mutant.Service[i].Method = append(mutant.Service[i].Method[:j], mutant.Service[i].Method[j+1:]...)
			expect(service.GetName()+"."+method.GetName(), mutant)
		}
	}
	if removals < 150 {
		t.Errorf("only %d elements were there to remove", removals)
	}
}

type file = descriptorpb.FileDescriptorProto

// mutations: each changes one thing and returns the name of the element that has to be reported.
var mutations = map[string]func(*file) string{
	"field number": func(f *file) string {
		field(f, "CreateVolumeRequest", "parameters").Number = proto.Int32(99)
		return "csi.v1.CreateVolumeRequest.parameters"
	},
	"field name": func(f *file) string {
		field(f, "Volume", "volume_id").Name = proto.String("id")
		return "csi.v1.Volume.volume_id"
	},
	"field type": func(f *file) string {
		field(f, "CapacityRange", "limit_bytes").Type = descriptorpb.FieldDescriptorProto_TYPE_UINT64.Enum()
		return "csi.v1.CapacityRange.limit_bytes"
	},
	"field message type": func(f *file) string {
		field(f, "CreateSnapshotResponse", "snapshot").TypeName = proto.String(".csi.v1.Volume")
		return "csi.v1.CreateSnapshotResponse.snapshot"
	},
	"map value type": func(f *file) string {
		entry := message(f, "Topology").NestedType[0]
		entry.Field[1].Type = descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum()
		return "csi.v1.Topology.SegmentsEntry.value"
	},
	"label": func(f *file) string {
		field(f, "ListVolumesResponse", "entries").Label = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()
		return "csi.v1.ListVolumesResponse.entries"
	},
	"json name": func(f *file) string {
		field(f, "Snapshot", "ready_to_use").JsonName = proto.String("ready_to_use")
		return "csi.v1.Snapshot.ready_to_use"
	},
	"out of the oneof": func(f *file) string {
		field(f, "VolumeCapability", "block").OneofIndex = nil
		return "field of oneof access_type csi.v1.VolumeCapability.block"
	},
	"secret unmarked": func(f *file) string {
		proto.ClearExtension(field(f, "NodeStageVolumeRequest", "secrets").Options, csi.E_CsiSecret)
		return "csi.v1.NodeStageVolumeRequest.secrets"
	},
	"secret marked false": func(f *file) string {
		proto.SetExtension(field(f, "NodeStageVolumeRequest", "secrets").Options, csi.E_CsiSecret, false)
		return "csi.v1.NodeStageVolumeRequest.secrets"
	},
	"alpha field unmarked": func(f *file) string {
		proto.ClearExtension(field(f, "NodeExpandVolumeRequest", "secrets").Options, csi.E_AlphaField)
		return "csi.v1.NodeExpandVolumeRequest.secrets"
	},
	"field deprecated": func(f *file) string {
		field(f, "Volume", "capacity_bytes").Options = &descriptorpb.FieldOptions{Deprecated: proto.Bool(true)}
		return "csi.v1.Volume.capacity_bytes"
	},
	"alpha message unmarked": func(f *file) string {
		proto.ClearExtension(message(f, "VolumeHealth").Options, csi.E_AlphaMessage)
		return "message csi.v1.VolumeHealth"
	},
	"reserved field freed": func(f *file) string {
		message(f, "NodeGetVolumeStatsResponse").ReservedRange = nil
		return "message csi.v1.NodeGetVolumeStatsResponse"
	},
	"message added": func(f *file) string {
		f.MessageType = append(f.MessageType, &descriptorpb.DescriptorProto{Name: proto.String("Extra")})
		return "message csi.v1.Extra"
	},
	"enum value number": func(f *file) string {
		rpcType(f).Value[1].Number = proto.Int32(99)
		return "csi.v1.ControllerServiceCapability.RPC.Type.CREATE_DELETE_VOLUME"
	},
	"alpha enum value unmarked": func(f *file) string {
		value := rpcType(f).Value[len(rpcType(f).Value)-1]
		proto.ClearExtension(value.Options, csi.E_AlphaEnumValue)
		return "csi.v1.ControllerServiceCapability.RPC.Type.LIST_VOLUME_HEALTH"
	},
	"reserved enum value freed": func(f *file) string {
		rpcType(f).ReservedRange = nil
		return "enum csi.v1.ControllerServiceCapability.RPC.Type"
	},
	"alpha enum marked": func(f *file) string {
		f.EnumType[0].Options = &descriptorpb.EnumOptions{}
		proto.SetExtension(f.EnumType[0].Options, csi.E_AlphaEnum, true)
		return "enum csi.v1." + f.EnumType[0].GetName()
	},
	"alpha method unmarked": func(f *file) string {
		method(f, "Controller", "GetSnapshot").Options = nil
		return "csi.v1.Controller.GetSnapshot"
	},
	"stream to single": func(f *file) string {
		method(f, "SnapshotMetadata", "GetMetadataDelta").ServerStreaming = nil
		return "csi.v1.SnapshotMetadata.GetMetadataDelta"
	},
	"method output": func(f *file) string {
		method(f, "Node", "NodeGetInfo").OutputType = proto.String(".csi.v1.NodeExpandVolumeResponse")
		return "csi.v1.Node.NodeGetInfo"
	},
	"alpha service unmarked": func(f *file) string {
		service(f, "SnapshotMetadata").Options = nil
		return "service csi.v1.SnapshotMetadata"
	},
	"extension number": func(f *file) string {
		f.Extension[0].Number = proto.Int32(4242)
		return "extension csi.v1." + f.Extension[0].GetName()
	},
	"package": func(f *file) string {
		f.Package = proto.String("csi.v2")
		return "file csi.v1"
	},
}

func message(f *file, name string) *descriptorpb.DescriptorProto {
	return named(f.MessageType, name)
}

func field(f *file, in, name string) *descriptorpb.FieldDescriptorProto {
	return named(message(f, in).Field, name)
}

func service(f *file, name string) *descriptorpb.ServiceDescriptorProto {
	return named(f.Service, name)
}

func method(f *file, in, name string) *descriptorpb.MethodDescriptorProto {
	return named(service(f, in).Method, name)
}

func rpcType(f *file) *descriptorpb.EnumDescriptorProto {
	return message(f, "ControllerServiceCapability").NestedType[0].EnumType[0]
}

func named[T interface{ GetName() string }](all []T, name string) T {
	for _, one := range all {
		if one.GetName() == name {
			return one
		}
	}
	panic("no " + name)
}
