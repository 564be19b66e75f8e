use super::*;

fn mutant(source: &str, number: u32, function: &str, text: &str, with: &str) -> Mutant {
    let start = source.find(function).unwrap();
    let at = start + function.find(text).unwrap();
    Mutant {
        number,
        name: format!("{text} -> {with}"),
        file: "a.rs".to_owned(),
        package: "a".to_owned(),
        function: Some(start..start + function.len()),
        function_name: String::new(),
        is_opaque: false,
        span: at..at + text.len(),
        replacement: with.to_owned(),
        key: String::new(),
        is_suspect: false,
    }
}

fn body_of(function: &str) -> &str {
    &function[body(function).unwrap()]
}

#[test]
fn a_body_begins_after_the_signature() {
    for signature in [
        "fn f() ",
        "/// A { brace.\n#[doc = \"{\"]\nfn f() ",
        "/* { /* { */ { */ fn f() ",
        "#[cfg(all(a, b))] pub(crate) async fn f<'a, T: Fn(u8) -> [u8; 2]>(x: &'a [u8; { 1 + 1 }], c: T) -> Option<&'a u8> where T: Copy ",
        "#[doc = r#\"\"{\"#] fn r#type() ",
        "#[a('{', '\\'', b'{', \"\\\"{\")] fn f(self: &'static Self) ",
    ] {
        assert_eq!(body_of(&format!("{signature}{{ a }}")), "{ a }", "{signature}");
    }
    assert_eq!(body("fn f();"), None);
}

#[test]
fn a_const_fn_is_known() {
    for signature in
        ["const fn f()", "pub const fn f<const N: usize>()", "/// It.\npub(in a::b) const fn f()"]
    {
        assert!(is_const(signature), "{signature}");
    }
    for signature in
        ["fn f()", "/// A const fn.\nfn f()", "#[doc = \"const fn\"] fn f()", "fn f<const N: usize>(g: u8)"]
    {
        assert!(!is_const(signature), "{signature}");
    }
}

#[test]
fn each_mutant_has_a_body_of_its_own() {
    let source = "use a;\nfn f(a: u8) -> bool {\n    // {\n    a < 3\n}\nfn g() {}\n";
    let function = "fn f(a: u8) -> bool {\n    // {\n    a < 3\n}";
    let (less, more) = (mutant(source, 7, function, "<", ">"), mutant(source, 8, function, "<", "<="));
    let (functions, outside) = functions(source, &[&less, &more]);
    assert!(outside.is_empty());
    let switched = switched(source, &functions);
    let expected = "use a;\nfn f(a: u8) -> bool { match crate::chosen_mutant::number() {\n\
        7 => {\n    // {\n    a > 3\n}\n8 => {\n    // {\n    a <= 3\n}\n_ => {\n    // {\n    a < 3\n}\n} }\nfn g() {}\n";
    assert_eq!(switched.text, expected);
    let arms: Vec<_> =
        switched.arms.iter().map(|arm| (arm.number, arm.lines.clone(), arm.changed.clone())).collect();
    assert_eq!(arms, [(7, 3..=6, 5..=5), (8, 7..=10, 9..=9)]);
    assert_eq!(switched.functions, [(2..=15, vec![7, 8])]);
}

#[test]
fn a_function_within_another_is_switched_with_it() {
    let inner = "fn g() -> bool { \"}{\" < \"a\" }";
    let outer = format!("fn f() -> bool {{ {inner} !g() }}");
    let source = format!("{outer}\nconst A: u8 = 1 << 2;\n");
    let (not, less) = (mutant(&source, 1, &outer, "!", ""), mutant(&source, 2, inner, "<", ">"));
    let mut constant = mutant(&source, 3, "const A: u8 = 1 << 2;", "<<", ">>");
    constant.function = None;
    let (functions, outside) = functions(&source, &[&not, &less, &constant]);
    assert_eq!(functions.len(), 1);
    assert_eq!(outside.iter().map(|one| one.number).collect::<Vec<_>>(), [3]);
    let text = switched(&source, &functions).text;
    assert!(text.contains("1 => { fn g() -> bool { \"}{\" < \"a\" } g() }"), "{text}");
    assert!(text.contains("2 => { fn g() -> bool { \"}{\" > \"a\" } !g() }"), "{text}");
    assert_eq!(text.matches("chosen_mutant").count(), 1);
}

#[test]
fn a_crate_s_root_keeps_its_lines() {
    let rooted = rooted("//! A crate.\nfn f() {}\n");
    assert_eq!(rooted.lines().nth(1), Some("fn f() {}"));
    assert!(rooted.contains(CHOICE));
}
