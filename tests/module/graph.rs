//! A module taken apart: its functions by name, what each calls, and which of them can reach an `unreachable`.

use std::collections::{BTreeMap, BTreeSet};

use super::flow::Flow;
use wasmparser::{ElementItems, ExternalKind, Name, NameSectionReader, Operator, Parser, Payload, TypeRef};

/// A function that is not imported.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Demangled, without its hash; those of the ABI as Envoy calls them.
    pub name: String,
    /// What it calls, by number.
    pub calls: BTreeSet<u32>,
    /// Where it says `unreachable` and control can come: behind a call that never returns, of which function; `None` where it stands alone.
    pub dead_ends: BTreeSet<Option<u32>>,
}

/// What a module has.
#[derive(Debug, Default)]
pub struct Module {
    pub imports: Vec<String>,
    /// Names of exported functions, and their numbers.
    pub exports: BTreeMap<String, u32>,
    pub functions: BTreeMap<u32, Function>,
    pub custom_sections: Vec<String>,
}

impl Module {
    /// Takes apart what the compiler has just made.
    pub fn read(bytes: &[u8]) -> wasmparser::Result<Self> {
        let mut module = Self::default();
        // Types of functions, by number; and the types and functions that may be called through the table.
        let (mut types, mut in_table) = (Vec::new(), BTreeSet::new());
        let mut indirect: Vec<(u32, u32)> = Vec::new();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let import = import?;
                        if let TypeRef::Func(kind) = import.ty {
                            types.push(kind);
                            module.imports.push(format!("{}.{}", import.module, import.name));
                        }
                    }
                }
                Payload::FunctionSection(functions) => {
                    for kind in functions {
                        types.push(kind?);
                    }
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export?;
                        if export.kind == ExternalKind::Func {
                            module.exports.insert(export.name.to_owned(), export.index);
                        }
                    }
                }
                Payload::ElementSection(elements) => {
                    for element in elements {
                        if let ElementItems::Functions(functions) = element?.items {
                            for function in functions {
                                in_table.insert(function?);
                            }
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    let number = (module.imports.len() + module.functions.len()) as u32;
                    let mut function = Function { name: format!("function {number}"), ..Function::default() };
                    let mut called = None;
                    let mut flow = Flow::default();
                    for operator in body.get_operators_reader()? {
                        let before = called.take();
                        let operator = operator?;
                        match operator {
                            Operator::Unreachable if flow.is_live() => _ = function.dead_ends.insert(before),
                            Operator::Call { function_index } => {
                                function.calls.insert(function_index);
                                called = Some(function_index);
                            }
                            Operator::CallIndirect { type_index, .. } => indirect.push((number, type_index)),
                            _ => {}
                        }
                        flow.step(&operator)?;
                    }
                    module.functions.insert(number, function);
                }
                Payload::CustomSection(section) => {
                    module.custom_sections.push(section.name().to_owned());
                    if let wasmparser::KnownCustom::Name(names) = section.as_known() {
                        module.name_functions(names)?;
                    }
                }
                _ => {}
            }
        }
        // A call through the table may be of any function there that has its type.
        for (caller, kind) in indirect {
            let callees = in_table.iter().filter(|callee| types.get(**callee as usize) == Some(&kind)).copied();
            if let Some(function) = module.functions.get_mut(&caller) {
                function.calls.extend(callees);
            }
        }
        Ok(module)
    }

    fn name_functions(&mut self, names: NameSectionReader<'_>) -> wasmparser::Result<()> {
        for subsection in names {
            let Name::Function(functions) = subsection? else { continue };
            for naming in functions {
                let naming = naming?;
                if let Some(function) = self.functions.get_mut(&naming.index) {
                    function.name = format!("{:#}", rustc_demangle::demangle(naming.name));
                }
            }
        }
        Ok(())
    }

    /// All functions that some export can reach.
    pub fn reachable(&self) -> BTreeSet<u32> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<u32> = self.exports.values().copied().collect();
        while let Some(number) = next.pop() {
            if reached.insert(number) {
                next.extend(
                    self.functions.get(&number).into_iter().flat_map(|function| function.calls.iter().copied()),
                );
            }
        }
        reached
    }

    /// A function's name; an import's is that of the host's function.
    pub fn name(&self, number: u32) -> &str {
        match self.functions.get(&number) {
            Some(function) => &function.name,
            None => self.imports.get(number as usize).map_or("", String::as_str),
        }
    }

    /// The names of functions that call this one.
    pub fn callers(&self, number: u32) -> impl Iterator<Item = &str> {
        self.functions.values().filter(move |function| function.calls.contains(&number)).map(|function| &*function.name)
    }
}
